"""The installer's wizard: the pages that a phone opens in the home, once, until everything is proven to work."""
