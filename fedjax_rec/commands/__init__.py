"""The commands of `fedjax-rec`, one file each; loaded when they are called."""
