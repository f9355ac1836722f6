// Filter buttons of the samples, and "show all". Without scripts every card is shown.
(() => {
  const FIRST = 18;
  const cards = [...document.querySelectorAll(".card")];
  const buttons = [...document.querySelectorAll(".filters button")];
  const more = document.querySelector(".more");
  if (!more) return;
  let tag = "all";
  let all = false;
  const show = () => {
    const chosen = cards.filter((card) => tag === "all" || card.dataset.tags.split(" ").includes(tag));
    for (const card of cards) card.hidden = true;
    for (const card of all ? chosen : chosen.slice(0, FIRST)) card.hidden = false;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tag === tag));
    more.hidden = all || chosen.length <= FIRST;
    more.textContent = `Show all ${chosen.length}`;
  };
  for (const button of buttons) button.addEventListener("click", () => { tag = button.dataset.tag; all = false; show(); });
  more.addEventListener("click", () => { all = true; show(); });
  document.documentElement.classList.add("js");
  show();
})();
