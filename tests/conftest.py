"""What every test needs of the process it runs in."""

import signal

# A shell without job control starts what it runs in the background with SIGINT ignored, and programs inherit that:
# tests that press Ctrl-C would press it in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)
