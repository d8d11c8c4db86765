"""The operator centre: the console's web page and API, the register of homes, and the log of who looked when.

It signs grants and time statements, carries operators' commands to the homes unread by the broker, verifies what the
homes answer, and stores it. It can't open a camera: the operator's own key signs that, in the browser.
"""
