"""Making a board ours: keys, certificates, set-up. Never imported by the device's own package."""
