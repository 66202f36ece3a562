"""`python -m histoxai`."""

from histoxai.cli import main

if __name__ == "__main__":
    main()
