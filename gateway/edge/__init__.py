"""The only importer of hardware and network libraries: one module per port and library."""
