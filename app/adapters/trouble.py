"""What is wrong with a service that a setting names."""

from dataclasses import dataclass

DATABASE, BROKER, STORE = "IMAGES_DATABASE_URL", "IMAGES_BROKER_URL", "IMAGES_OBJECT_STORE"
UPLOAD_KEY = "IMAGES_OBJECT_STORE_UPLOAD_KEY"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem with the service that a setting names, without its secrets. A `wrong` one persists."""

    setting: str
    reason: str
    wrong: bool = False
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.setting}: {self.reason}" + (f". {self.remedy}" if self.remedy else "")
