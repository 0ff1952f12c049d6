"""Heavy stages run in a process of their own; `launcher.py` is its parent's side, `child.py` its own.

The parent names the function, writes one line of JSON, the request, to the child's standard input and keeps that open:
its end tells the child that the parent is gone. The child writes events, one JSON object a line, to a pipe of its own;
what libraries print goes to a log file.
"""
