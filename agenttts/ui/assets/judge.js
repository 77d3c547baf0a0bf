// Presses the button that a key names, once: the next page has the next pair.
let pressed = false;
document.addEventListener("submit", () => { pressed = true; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || pressed) return;
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (button && !button.disabled) { event.preventDefault(); button.click(); }
});
window.addEventListener("pageshow", () => { pressed = false; });
