"""Words that all rooms share: errors, units, ids, time. Standard library only."""
