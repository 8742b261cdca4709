// A search field, and a choice for every column with few values, above each table in a .filterable.
document.querySelectorAll(".filterable").forEach((box) => {
  const table = box.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  const text = (row, i) => row.cells[i].textContent.trim();
  const bar = document.createElement("div");
  bar.className = "filter";
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "Search " + rows.length + " rows";
  bar.append(search);
  const choices = [...table.tHead.rows[0].cells].flatMap((head, i) => {
    const values = [...new Set(rows.map((row) => text(row, i)))].sort();
    if (values.length > 30 || values.length < 2 || values.every((v) => !isNaN(v))) return [];
    const select = document.createElement("select");
    select.append(new Option(head.textContent.trim() + ": all", ""), ...values.map((v) => new Option(v, v)));
    bar.append(select);
    return [{ i, select }];
  });
  const count = document.createElement("span");
  bar.append(count);
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const all = row.textContent.toLowerCase();
      const fits = words.every((w) => all.includes(w)) && choices.every((c) => !c.select.value || text(row, c.i) === c.select.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown + " shown";
  };
  bar.addEventListener("input", apply);
  apply();
  box.prepend(bar);
});
