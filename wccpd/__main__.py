"""`python -I -m wccpd`: the same as the `wccpd` command, safe from modules in the current directory."""

from wccpd.cli import main

if __name__ == "__main__":
    main()
