"""What is made once for each device before it leaves the house: stub of an identity, label, register line."""
