"""Run the command line from a checkout, without installation: `python cli.py fit image.png`."""

from self2self.__main__ import main

if __name__ == "__main__":
    main()
