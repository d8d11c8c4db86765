"""The fleet from the command line: rollouts by the centre's API, and N gateways played against a real broker."""
