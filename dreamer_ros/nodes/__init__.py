"""ROS 2 nodes, one file each."""

import os
import signal
import sys

from dreamer_ros import launcher

# As `python -m dreamer_ros.nodes.NODE`, or as the executable NODE in lib/dreamer_ros.
_program = sys.argv[0] == '-m' or os.path.basename(os.path.dirname(sys.argv[0])) == 'dreamer_ros'
if (launcher.launch() or _program) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A Ctrl-C while a node still imports its packages ends the process, without Python's traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
