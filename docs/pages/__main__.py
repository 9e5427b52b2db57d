"""`make results`."""

from . import certainty, commands, results, studies

commands.main()
results.main()
studies.main()
certainty.main()
