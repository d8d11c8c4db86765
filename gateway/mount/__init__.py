"""Where the camera points: its calibration and the motion between parked and aimed. Pure; no library, no I/O."""
