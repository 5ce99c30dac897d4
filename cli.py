"""`python cli.py fit image.png` from a checkout."""

from self2self.__main__ import main

if __name__ == "__main__":
    main()
