// Tables that sort, and the viewer that is unpacked when asked for.
for (const head of document.querySelectorAll("table.sortable thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[head.cellIndex].dataset.key ?? row.cells[head.cellIndex].textContent;
    const order = (a, b) => (isNaN(key(a)) || isNaN(key(b)) ? key(a).localeCompare(key(b)) : key(a) - key(b));
    body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
  });
}
const opener = document.getElementById("viewer-open");
if (opener) {
  const find = (name) => document.getElementById("viewer-" + name);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const volumes = JSON.parse(find("volumes").textContent);
  let shown = null;
  const load = async () => {
    const name = find("volume").value;
    const image = await niivue.NVImage.loadFromUrl({ url: bytes(volumes[name]).buffer, name: "volume.nii.gz" });
    for (const old of [...shown.volumes]) shown.removeVolume(old);
    shown.addVolume(image);
    turn();
    find("says").textContent = name + " is shown; drag to turn it.";
  };
  const turn = () => shown && shown.setRenderAzimuthElevation(Number(find("turn").value), 15);
  opener.addEventListener("click", async () => {
    try {
      opener.disabled = true;
      const packed = new Blob([bytes(find("bundle").textContent.trim())]).stream();
      const script = document.createElement("script");
      script.textContent = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
      document.head.append(script);
      find("stage").hidden = false;
      shown = new niivue.Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientCube: false });
      await shown.attachToCanvas(find("canvas"));
      shown.setSliceType(shown.sliceTypeRender);
      await load();
      opener.hidden = true;
    } catch (error) {
      find("says").textContent = "The viewer needs WebGL2, which this browser does not offer: " + error.message;
    }
  });
  find("volume").addEventListener("change", () => shown && load());
  find("turn").addEventListener("input", turn);
}
