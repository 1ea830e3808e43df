document.addEventListener("input", ({ target }) => {
  if (target.matches(".stack input")) target.parentElement.style.setProperty("--x", target.value + "%");
});
document.addEventListener("click", ({ target }) => {
  if (!target.matches(".cover")) return;
  target.parentElement.classList.remove("flagged");
  target.remove();
});
