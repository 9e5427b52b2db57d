"""`make results`."""

from . import certainty, commands, results, studies, trust

commands.main()
results.main()
studies.main()
certainty.main()
trust.main()
