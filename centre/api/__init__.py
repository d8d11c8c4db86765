"""/api/v1: what the console's page and other programs ask of the centre. One module for each subject."""
