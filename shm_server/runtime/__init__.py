"""What any process of ours has: signals, log lines, forked children, the words of an exception."""
