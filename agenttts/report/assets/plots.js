// Draws every figure of a page: a div of class "plot" holds its data and layout as JSON.
function drawPlots(root) {
  for (const place of root.querySelectorAll(".plot")) {
    const text = place.querySelector("script").textContent;
    if (place.drawn === text) continue;
    place.drawn = text;
    const figure = JSON.parse(text);
    Plotly.react(place.querySelector("div"), figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
}
drawPlots(document);
