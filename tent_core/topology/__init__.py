"""What this host is: its identity, interfaces, memory and limits. Reads the kernel's files; changes nothing."""
