"""What a ledger says, for those who must read it: FHIR and CSV, the resident's sheet, the controller's weekly review.

Everything is made from a ledger that verifies (`account.read_account`) and, where one is given, from the agreement
that the ledger recorded last. No output names anybody: the ledger has pseudonyms only, and what looks like a personal
number is withheld (`account.shown`). Formats, columns and commands: docs/exports.md.
"""
