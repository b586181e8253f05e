"""ROS 2 nodes, one file each."""

import signal

from dreamer_ros import launcher

if launcher.launch() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A Ctrl-C while a node still imports its packages ends the process, without Python's traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
