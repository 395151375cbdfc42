"""The DeepSpeed strategies of Lightning scripts, read from the text of the script."""
