"""`python -m anymask` is the `anymask` command."""

from anymask.cli.main import main

if __name__ == "__main__":
    main()
