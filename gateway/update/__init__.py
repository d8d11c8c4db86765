"""The A/B update without I/O: which offers are taken, when one may disturb, how it goes on, and what makes it good.

`offer` judges a verified `update.offer`, `quiet` keeps the hour before an occasion free, `machine` is the update's way,
`gate` what a tried system must show. `slot` has the rules of the two slots.
"""
