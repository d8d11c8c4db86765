"""The appliance's operating-system image: its lock, its build, its bill of materials, and comparing two builds.

The recipe itself is data below image-build/. Nothing here runs on a device.
"""
