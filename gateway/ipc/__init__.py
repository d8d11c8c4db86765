"""What the processes of one gateway say to one another, on unix sockets only."""
