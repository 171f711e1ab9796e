/* Two conveniences; every page works without them.
   An element with data-live is brought up to date; a file may be dropped on an element with the class drop. */
(() => {
  const pause = 3000;
  const look = async () => {
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: { "X-Desk-Look": "1" } });
      if (answer.status === 401) return location.reload();
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* the desk has ended: what is shown stays */ }
    if (document.querySelector("[data-live]")) setTimeout(look, pause);
  };
  const replace = (next) => {
    const now = document.querySelector("[data-live]");
    const newer = next.getElementById(now.id);
    if (!newer || newer.innerHTML === now.innerHTML || now.contains(document.activeElement)) return;
    now.replaceWith(newer);
  };
  if (document.querySelector("[data-live]")) setTimeout(look, pause);

  for (const place of document.querySelectorAll(".drop")) {
    const field = place.querySelector("input[type=file]");
    const over = (event, on) => { event.preventDefault(); place.classList.toggle("over", on); };
    place.addEventListener("dragover", (event) => over(event, true));
    place.addEventListener("dragleave", (event) => over(event, false));
    place.addEventListener("drop", (event) => {
      over(event, false);
      if (event.dataTransfer.files.length !== 1) return;
      field.files = event.dataTransfer.files;
      field.form.requestSubmit();
    });
  }
})();
