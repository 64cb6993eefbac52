"""A byte stream with modem lines: a local tty or any pyserial URL. One owner; survives re-enumeration."""
