"""Bytes to typed facts and back: envelope, commands, events, topics. No I/O.

The door for untrusted bytes is `envelope.verify_command`; nothing else can make a `VerifiedCommand`.
"""
