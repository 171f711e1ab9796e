/* A live page looks for a newer one where it came from; from a file it does nothing. */
(() => {
  if (!location.protocol.startsWith("http")) return;
  const pause = 3000;
  let tag = null;
  const look = async () => {
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const answer = await fetch(location.pathname, { cache: "no-store", headers });
      if (answer.status === 200) {
        const newer = answer.headers.get("ETag");
        if (tag !== null && newer !== tag) replace(await answer.text());
        tag = newer;
      }
    } catch { /* the server has ended: what is shown stays */ }
    if (document.documentElement.hasAttribute("data-live")) setTimeout(look, pause);
  };
  const replace = (text) => {
    const next = new DOMParser().parseFromString(text, "text/html");
    const keys = (root) => [...root.querySelectorAll("details")];
    const open = new Set(keys(document).map((one, place) => (one.open ? place : -1)));
    const focus = document.activeElement && document.activeElement.id;
    document.querySelector("main").replaceWith(next.querySelector("main"));
    keys(document).forEach((one, place) => { one.open = open.has(place); });
    if (focus && document.getElementById(focus)) document.getElementById(focus).focus({ preventScroll: true });
    document.title = next.title;
    if (!next.documentElement.hasAttribute("data-live")) document.documentElement.removeAttribute("data-live");
  };
  look();
})();
