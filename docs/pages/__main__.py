"""`make results`."""

from . import commands, results, studies

commands.main()
results.main()
studies.main()
