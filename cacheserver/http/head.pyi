from typing import Final

MAX_HEAD: Final[int]
