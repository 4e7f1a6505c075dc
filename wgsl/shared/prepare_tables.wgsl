// What a workgroup does before its products: it brings the tables that codes and signs are looked up in.

//import kept_signs
//import kept_table

fn prepare(local: u32) {
    keep_table(local);
    keep_signs(local);
    workgroupBarrier();
}
