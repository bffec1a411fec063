"""Settings of the process that every test runs in."""

import signal

import hypothesis

# A shell without job control starts what it runs in the background with SIGINT ignored, and programs inherit that:
# tests that press Ctrl-C would press it in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("octavo", deadline=None)
hypothesis.settings.load_profile("octavo")
