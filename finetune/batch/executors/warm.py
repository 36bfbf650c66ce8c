"""What jobs are forked from: a process that has imported everything a run needs, once for all of them.

Importing this module makes the process that; the fork server of `multiprocessing` does (see `local.Forked`). No
operation is run and no device is looked for: TensorFlow's threads and a GPU's context would not survive the fork.
"""

import gc
import importlib
import os
import signal

from setproctitle import setproctitle

from finetune.process import silent_descriptor

if os.getpid() != os.getsid(0):
    # Ctrl-C, and a terminal that closes, are for who started the batch: it decides who is told to stop.
    os.setsid()
setproctitle("finetune batch: jobs are forked from this")
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with silent_descriptor():
    for _name in ("tensorflow", "keras", "finetune.cli", "finetune.training.start"):
        importlib.import_module(_name)
# Else the first collection of garbage in each job would write to, and so copy, every page of this.
gc.freeze()
