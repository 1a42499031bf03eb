"""Where snakemake looks first; the workflow is workflow/Snakefile."""


include: "workflow/Snakefile"
