"""What is to be said of the picture itself: clear, dark, covered, blurred, frozen or misaimed. Pure, numpy only.

`measure` turns some small luma planes of about one second into numbers, `judge` turns numbers into one word, with
hysteresis, and `signature` compares the picture with a coarse one from calibration. The words describe the picture and
never the person: nothing here looks for somebody, and whether the resident is seen is the operator's signed verdict.

How good the words are on generated scenes stands in docs/view-signals.md, which a test makes and compares.
"""

from gateway.view.judge import Judged, judge
from gateway.view.measure import Measures, Plane, measure
from gateway.view.signature import Signature, SignatureError

__all__ = ["Judged", "Measures", "Plane", "Signature", "SignatureError", "judge", "measure"]
