"""Where snakemake looks first; the workflow is workflow/Snakefile."""


include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file's is not taken
