// Draws the figures anew after htmx has brought a newer state of a run.
document.addEventListener("htmx:after:settle", (event) => drawPlots(event.target.parentElement || document));
