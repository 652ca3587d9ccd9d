"""The confined reader: reads a hostile disk, and prints what it found. It imports nothing but what confined.py shows.

main → survey → linux, windows, firmware → hives, initramfs → trees → volumes, partitions → disk
"""
