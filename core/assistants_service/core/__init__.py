"""The domain: the rules of the protocol and the event log, without I/O. What it needs from outside are the ports in
core/ports.
"""
