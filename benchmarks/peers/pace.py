"""How a contender is told to train and says how long it took: JSON lines over standard input and output.

`{"steps": N}` trains N steps and is answered by `{"seconds": S, "losses": [...]}`; the end of the input ends the
process.
Only the standard library is imported: every contender has an environment of its own.
"""

import json
import os
import sys
import time


class Pace:
    """Called after each step; waits where the steps that were asked for are done."""

    def __init__(self):
        # What TensorFlow and PyTorch print goes to standard error; the answers have the output to themselves.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left, self._losses, self._began = 0, [], 0.0

    def ready(self):
        """Everything is built: wait for the first steps."""
        self._wait({"ready": True})

    def step(self, loss):
        """One training step is over; `loss` is the mean over its batch, a float that was waited for."""
        self._losses.append(float(loss))
        self._left -= 1
        if self._left <= 0:
            self._wait({"seconds": time.perf_counter() - self._began, "losses": self._losses})

    def _wait(self, answer):
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self._left, self._losses = json.loads(line)["steps"], []
        self._began = time.perf_counter()
