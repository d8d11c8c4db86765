"""How a device gets its certificate: key made on the device, EST to the centre, the same short code at both ends."""
