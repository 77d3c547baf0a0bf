// Draws every figure of a page: a div of class "plot" holds its data and layout as JSON.
function drawPlots(root) {
  for (const place of root.querySelectorAll(".plot")) {
    const figure = JSON.parse(place.querySelector("script").textContent);
    Plotly.react(place.querySelector("div"), figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
}
drawPlots(document);
