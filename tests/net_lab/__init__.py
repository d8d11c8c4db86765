"""The network lab: home, centre and operator in namespaces, with real processes and a real Chromium. See README.md."""
