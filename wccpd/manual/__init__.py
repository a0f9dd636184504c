"""Manual pages, made of the texts that the code has anyway: the help of the commands, the descriptions of settings.

`command_page` turns a typer application into the page of its command, `settings_page` the configuration's models
into wccpd.yaml(5); `roff` knows how a page is written. `python -m wccpd.manual` writes the files of the checkout
anew. Nothing of this is needed at run time.
"""

from wccpd.manual.commands import command_page
from wccpd.manual.roff import Page
from wccpd.manual.settings import settings_page

__all__ = ["Page", "command_page", "settings_page"]
