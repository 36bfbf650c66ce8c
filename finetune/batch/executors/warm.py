"""Make a process that jobs are forked from: it has imported everything a run needs, once for all of them.

The fork server of `multiprocessing` imports this module (see `local.Forked`). The module runs no operation and lists
no device, because TensorFlow's threads and a GPU's context would not survive the fork.
"""

import gc
import importlib
import os
import signal

from setproctitle import setproctitle

from finetune.process import set_environment, silent_descriptor

if os.getpid() != os.getsid(0):
    # Ctrl-C and a closing terminal reach the process of the batch alone: it decides which jobs to stop.
    os.setsid()
setproctitle("finetune batch: jobs are forked from this")
signal.signal(signal.SIGTERM, signal.SIG_DFL)
set_environment()
with silent_descriptor():
    for _name in ("tensorflow", "keras", "finetune.cli", "finetune.training.start"):
        importlib.import_module(_name)
# Without it, the first garbage collection in each job would write to every memory page of this process and copy it.
gc.freeze()
