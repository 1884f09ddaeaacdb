"""``python -m vla``: the command line where there is no console script, as for the processes of a launcher."""

from vla.cli import entry

if __name__ == "__main__":
    entry()
